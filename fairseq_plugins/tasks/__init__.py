"""fairseq tasks: pretraining on text, prompt-finetuning, synthetic tasks."""
