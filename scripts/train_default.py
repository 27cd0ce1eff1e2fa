"""Train the small checkpoint that is embedded in the package, on a CPU, within an hour.

    python scripts/collect_metaworld.py datasets/default     # once, see there
    python scripts/train_default.py datasets/default outputs/default src/ivideogpt_hf/default
    python scripts/evaluate_default.py datasets/default src/ivideogpt_hf/default

The second folder holds the state of both trainings; run the same command again to go on from there. The third one
receives the checkpoint. Each training has a time budget, over which its learning rate falls.
"""

import json
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ivideogpt_hf import (
    IVideoGPTConfig,
    IVideoGPTForCausalLM,
    IVideoGPTVideoProcessor,
    IVideoGPTVQConfig,
    IVideoGPTVQModel,
    WorldModel,
)

VQ_MINUTES, TRANSFORMER_MINUTES = 27, 28
NUM_CONTEXT, NUM_FUTURE = 2, 10
CLIP_LENGTH = NUM_CONTEXT + NUM_FUTURE
SAVE_SECONDS = 120


def load_episodes(folder):
    """Every episode of a split: frames (E, T, 3, H, W) uint8, actions (E, T-1, A) and rewards (E, T-1) float32."""
    files = [np.load(path) for path in sorted(folder.glob("*.npz"))]
    return {key: torch.from_numpy(np.stack([file[key] for file in files])) for key in ("frames", "actions", "rewards")}


def cut_clips(episodes, starts):
    """The clips at (episode, start): frames (B, 12, 3, H, W) uint8, and the actions (B, 10, A) and rewards (B, 10) that
    belong to the future frames. The first of these actions is the one taken from the last context frame."""
    frames = torch.stack([episodes["frames"][e, s : s + CLIP_LENGTH] for e, s in starts])
    first, stop = NUM_CONTEXT - 1, CLIP_LENGTH - 1
    actions = torch.stack([episodes["actions"][e, s + first : s + stop] for e, s in starts])
    rewards = torch.stack([episodes["rewards"][e, s + first : s + stop] for e, s in starts])
    return frames, actions, rewards


def train(name, model, loss_function, work, minutes, peak_lr):
    """Minimise for a time budget; the state is saved now and then, and taken up again if there is one."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, betas=(0.9, 0.98), weight_decay=0.01)
    state, path = {"updates": 0, "seconds": 0.0}, work / f"{name}.pt"
    if path.exists():
        state = torch.load(path)
        model.load_state_dict(state.pop("model"))
        optimizer.load_state_dict(state.pop("optimizer"))
    torch.manual_seed(state["updates"])
    last, saved, logs = time.time(), time.time(), []
    model.train()
    while state["seconds"] < 60 * minutes:
        progress = state["seconds"] / (60 * minutes)
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * min((state["updates"] + 1) / 100, 1.0, 0.02 + 1.6 * (1 - progress))
        loss, log = loss_function(model, state["updates"], progress)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        logs.append({"loss": loss.item(), **log})
        now = time.time()
        state["updates"], state["seconds"], last = state["updates"] + 1, state["seconds"] + now - last, now
        if state["updates"] % 50 == 0:
            means = {key: round(float(np.mean([entry[key] for entry in logs])), 4) for key in logs[0]}
            print(f"{name} {state['updates']} {state['seconds']:.0f} s {means}", flush=True)
            logs = []
        if now - saved > SAVE_SECONDS or state["seconds"] >= 60 * minutes:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), **state}, path)
            saved = now
    model.eval()
    return {"updates": state["updates"], "minutes": round(state["seconds"] / 60, 1)}


class CodebookCare:
    """Keeps a codebook in use. Codes that no vector chose for a while move onto vectors that the encoder makes now;
    without this a small data set collapses onto a handful of codes."""

    def __init__(self, codebook):
        self.weight = codebook.embedding.weight
        self.counts = torch.zeros(len(self.weight))
        codebook.register_forward_hook(self._record)

    def _record(self, _module, inputs, output):
        self.vectors = inputs[0].detach().flatten(0, -2)
        self.counts += torch.bincount(output.codes.flatten(), minlength=len(self.counts))

    def count_anew(self, restart_unused):
        if restart_unused:
            unused = self.counts == 0
            chosen = torch.randint(len(self.vectors), (int(unused.sum()),))
            self.weight.data[unused] = self.vectors[chosen].float()
        self.counts.zero_()

    def perplexity(self):
        share = self.counts / self.counts.sum()
        return torch.exp(-(share * share.clamp_min(1e-9).log()).sum()).item()


def train_vq(vq, episodes, work):
    num_episodes, length = episodes["frames"].shape[:2]
    mean_image = episodes["frames"][:, ::5].float().mean((0, 1)) / 255
    cares = {"context": CodebookCare(vq.quantize), "dynamics": CodebookCare(vq.dynamics_quantize)}

    def loss_function(vq, update, progress):
        clips = []
        for _ in range(2):
            episode, start = torch.randint(num_episodes, ()), torch.randint(length - CLIP_LENGTH + 1, ())
            future = NUM_CONTEXT + torch.randperm(NUM_FUTURE)[:3].sort().values
            clips.append(episodes["frames"][episode, start + torch.cat([torch.arange(NUM_CONTEXT), future])])
        clips = torch.stack(clips).float() / 255
        output = vq(clips[:, :NUM_CONTEXT], clips[:, NUM_CONTEXT:])
        # Most pixels never change; those that differ from the mean image (the arm, the object) count five times.
        weight = 1 + 4 * ((clips - mean_image).abs().amax(2, keepdim=True) > 0.1)
        error = (torch.cat([output.context_reconstruction, output.future_reconstruction], 1) - clips).abs() * weight
        commitment = output.context_commitment_loss + output.future_commitment_loss
        perplexity = {key: care.perplexity() for key, care in cares.items()}
        # Often at first, while the encoder still moves fast; never at the end, so that the codes can settle.
        if update in (0, 3, 10, 30) or update % 100 == 60:
            for care in cares.values():
                care.count_anew(restart_unused=progress < 0.7)
        return error.mean() + commitment, {"l1": error.mean().item(), "commitment": commitment.item(), **perplexity}

    return train("vq", vq, loss_function, work, VQ_MINUTES, peak_lr=1e-3)


@torch.no_grad()
def tokenize(vq, episodes, work):
    """Token sequences, actions and rewards of clips that start at every second frame: made once, kept in a file."""
    path = work / "tokens.pt"
    if not path.exists():
        num_episodes, length = episodes["frames"].shape[:2]
        starts, batches = [(e, s) for e in range(num_episodes) for s in range(e % 2, length - CLIP_LENGTH + 1, 2)], []
        for i in range(0, len(starts), 8):
            frames, actions, rewards = cut_clips(episodes, starts[i : i + 8])
            batches.append((*vq.tokenize(frames.float() / 255), actions, rewards))
        torch.save([torch.cat(parts) for parts in zip(*batches, strict=True)], path)
    return torch.load(path)


def train_transformer(transformer, processor, data, work):
    tokens, labels, actions, rewards = data

    def loss_function(transformer, update, progress):
        rows, others = torch.randint(len(tokens), (2, 8))
        # Wrong tokens among the inputs, as a rollout will make them; it also delays learning the clips by heart.
        wrong = (torch.rand(labels[rows].shape) < 0.05) & (labels[rows] >= 0)
        inputs = torch.where(wrong, tokens[others], tokens[rows])
        output = transformer(inputs, actions=processor.normalize_actions(actions[rows]), labels=labels[rows])
        reward_loss = F.mse_loss(output.rewards, processor.rewards_to_head(rewards[rows]))
        return output.loss + reward_loss, {"cross_entropy": output.loss.item(), "reward_mse": reward_loss.item()}

    return train("transformer", transformer, loss_function, work, TRANSFORMER_MINUTES, peak_lr=1.5e-3)


def main(data_folder, work, target):
    torch.set_num_threads(2)
    torch.manual_seed(0)
    work.mkdir(parents=True, exist_ok=True)
    episodes = load_episodes(data_folder / "train")
    vq = IVideoGPTVQModel(IVideoGPTVQConfig(
        resolution=64, block_out_channels=(16, 32, 64, 64), layers_per_block=1, norm_num_groups=8, latent_channels=16,
        num_context_codes=512, num_dynamics_codes=256, num_context_frames=NUM_CONTEXT, max_att_resolution=16,
        patch_size=2, attention_dropout=0.0,
    ))  # fmt: skip
    vq_run = train_vq(vq, episodes, work)
    tokens = tokenize(vq, episodes, work)
    layout = vq.config.layout
    transformer = IVideoGPTForCausalLM(IVideoGPTConfig(
        hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
        max_position_embeddings=512, num_context_frames=NUM_CONTEXT, num_trained_frames=NUM_FUTURE,
        tokens_per_context_frame=layout.tokens_per_context_frame, num_context_codes=layout.num_context_codes,
        tokens_per_future_frame=layout.tokens_per_future_frame, num_dynamics_codes=layout.num_dynamics_codes,
        action_dim=episodes["actions"].shape[-1], predict_reward=True,
    ))  # fmt: skip
    bounds = {"action_low": [-1.0] * 4, "action_high": [1.0] * 4, "action_names": ["x", "y", "z", "gripper"]}
    processor = IVideoGPTVideoProcessor(size={"height": 64, "width": 64}, reward_transform="symlog", **bounds)
    transformer_run = train_transformer(transformer, processor, tokens, work)
    WorldModel(vq, transformer, processor).save_pretrained(target)
    metrics = {
        "training_command": shlex.join(["python", *sys.argv]),
        "training": {"num_episodes": len(episodes["frames"]), "vq_model": vq_run, "transformer": transformer_run},
    }
    (target / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
