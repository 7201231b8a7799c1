"""The real pair of models on one real GPU, beside what we say of it: `serve-app bench gpu`."""
