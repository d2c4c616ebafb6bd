"""Applications to read, run and copy from. tests/test_examples.py runs them."""
