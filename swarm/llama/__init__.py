"""The LLaMA family: how configs and tensors of any member are spelt. The mathematics is the decoder's."""
