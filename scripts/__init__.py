"""What is run from the repository's root and is part of no installed package."""
