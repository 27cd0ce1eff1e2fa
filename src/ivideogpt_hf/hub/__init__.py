"""The only code that speaks to the Hugging Face Hub."""
