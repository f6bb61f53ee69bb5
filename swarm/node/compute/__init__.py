"""The computing side: engines and the loaders that make them, their threads, what is drawn, what models cost."""
