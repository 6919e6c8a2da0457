"""llmbench: at what number of diffusion steps does LLaDA match LLaMA's quality, and is it faster there?"""

__version__ = "0.1.0"
