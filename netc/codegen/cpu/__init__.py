"""Native code for processors: LLVM text, object files, flat images."""
