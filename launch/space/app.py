"""The page of launch/demo.sh as a Hugging Face Space, which forwards port 7860."""

import os

from mt_diffusion.demo import serving

if __name__ == "__main__":
    serving.serve(os.environ.get("WORKDIR", ""), "0.0.0.0", serving.PORT)
