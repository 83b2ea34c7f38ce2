"""What makes fastgan fit existing codebases and their files."""
