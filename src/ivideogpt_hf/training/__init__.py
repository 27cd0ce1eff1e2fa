"""Training of both networks with Accelerate.

`train_vq.py` and `train_world_model.py` hold the two trainings, and are the files to read first. Both run `loop.py`
through `trainer.py`. `tokenizing.py` codes clips once, for many trainings of a transformer.
"""
