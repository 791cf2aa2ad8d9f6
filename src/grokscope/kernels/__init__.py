"""Speed, and nothing else: `accelerated(model)` is a model's faster twin, partly in C++ for processors with
AVX512-BF16, which is never required. The models themselves know nothing of it."""
