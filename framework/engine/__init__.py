"""The contract of an engine (`port`) and the engines that implement it."""
