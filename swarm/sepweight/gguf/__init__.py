"""GGUF files: what they say, their tensors, their tokenizer. The format's own library reads and dequantises."""
