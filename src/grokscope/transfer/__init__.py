"""New facts into a trained model, and what becomes of its circuit: fine-tuning, forgetting, where the second
hop fails."""
