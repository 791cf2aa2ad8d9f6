"""What of a pass is written in C++: for processors with AVX512-BF16, and never required."""
