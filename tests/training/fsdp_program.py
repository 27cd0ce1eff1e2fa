"""Started by test_processes.py in two processes: the updates of `train`, on a transformer that FSDP2 shards.

Accelerate shards on accelerators only, so here transformers does. Loop, losses and data are those of `train`.

    torchrun --standalone --nproc_per_node 2 fsdp_program.py WORLD_YAML OUTPUT_FOLDER
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from torch.distributed.tensor import DTensor
from transformers.distributed import DistributedConfig

from ivideogpt_hf import IVideoGPTForCausalLM
from ivideogpt_hf.checkpoints.layout import TRANSFORMER_FOLDER
from ivideogpt_hf.checkpoints.loading import load_processor, load_vq_model
from ivideogpt_hf.training.arguments import parse
from ivideogpt_hf.training.callbacks import Metrics
from ivideogpt_hf.training.launch import start_run
from ivideogpt_hf.training.loop import Loop, Phase
from ivideogpt_hf.training.open_data import make_loader, open_clips
from ivideogpt_hf.training.optimizers import make_optimizer, make_scheduler
from ivideogpt_hf.training.train_world_model import WORLD_MODEL_ARGUMENTS, WorldModelLosses


def main(config: str, output: Path) -> None:
    run, data, optimization, model = parse(WORLD_MODEL_ARGUMENTS, config, [], "fsdp_program")
    accelerator = start_run(run)
    vq_model = load_vq_model(model.vq_model).requires_grad_(requires_grad=False)
    clips = open_clips(data, vq_model.config.frame_size, run.seed, actions=model.actions, rewards=model.rewards)
    transformer = IVideoGPTForCausalLM.from_pretrained(
        Path(model.transformer) / TRANSFORMER_FOLDER, distributed_config=DistributedConfig(fsdp_size=2)
    ).train()
    assert all(isinstance(parameter, DTensor) for parameter in transformer.parameters())

    optimizer = make_optimizer(transformer, optimization.learning_rate, optimization.weight_decay)
    scheduler = make_scheduler(optimizer, optimization.schedule, optimization.warmup_updates, run.num_updates)
    losses = WorldModelLosses(model, vq_model, load_processor(model.transformer), transformer.config.reward_range)
    loss = partial(losses.loss, transformer)
    output.mkdir(exist_ok=True)
    Loop(
        accelerator,
        phases=[Phase("transformer", transformer, accelerator.prepare(optimizer), scheduler, loss)],
        loader=make_loader(clips.training, optimization.batch_size // accelerator.num_processes, accelerator),
        source_names=clips.source_names,
        num_updates=run.num_updates,
        max_grad_norm=optimization.max_grad_norm,
        output_dir=output,
        callbacks=[Metrics(accelerator, run.log_every, optimization.batch_size)],
    ).run()
    transformer.save_pretrained(output / TRANSFORMER_FOLDER)
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
