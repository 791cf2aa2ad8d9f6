"""What changes when a state is replaced: donors, the engine, and the experiments made with it."""
