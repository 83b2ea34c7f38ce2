"""One module for every family of codebases: which of its functions fastgan takes over."""
