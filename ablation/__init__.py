"""Pretrain, prompt-finetune and evaluate variants of the method side by side (paper table 4)."""
