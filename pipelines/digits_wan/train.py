"""Train the demo denoiser from nothing: rectified flow on rendered clips, resumable, on CPU cores or GPUs.

    torchrun --standalone --nproc-per-node 2 -m dit_accel.pipelines.digits_wan.train --workdir build/digits-wan

Two stages. Stage 1 shows three random frames of each clip at their true temporal positions: a third of the tokens, and
colour, digit, layout and most of the motion can already be learnt. Stage 2 shows all nine. The run is a fixed number
of steps; every draw comes from (seed, step, rank), so a resumed run continues the same sequence.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from .captions import all_captions
from .clips import NUM_FRAMES, render
from .text import TEXT_DIM, embed
from .vae import LATENT_CHANNELS, LatentEncoder, build_vae

CLIPS_PER_BLOCK = 100


@dataclass(frozen=True)
class TrainConfig:
    """The recipe of the shipped weights; ``stage1_batch`` and ``stage2_batch`` are over all workers."""

    seed: int = 0
    stage1_steps: int = 3000
    stage2_steps: int = 2600
    stage1_batch: int = 48
    stage2_batch: int = 16
    stage1_frames: int = 3
    pool_clips: int = 24_000
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    warmup_steps: int = 60
    decay_steps: int = 2900
    shift: float = 3.0
    uniform_fraction: float = 0.2
    caption_dropout: float = 0.1
    ema_decay: float = 0.998

    @property
    def num_steps(self) -> int:
        """Optimizer steps in all."""
        return self.stage1_steps + self.stage2_steps


class FrameRope(nn.Module):
    """Rotary embedding of a subset of the frames at their true temporal positions, not numbered 0, 1, …"""

    def __init__(self, rope: nn.Module) -> None:
        super().__init__()
        self.rope = rope
        self.frames: Tensor | None = None

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine tables [1, tokens, 1, head dim] for latents [B, C, frames, H, W]."""
        if self.frames is None:
            return self.rope(hidden_states)
        whole = hidden_states.new_empty(1, 1, NUM_FRAMES, *hidden_states.shape[3:])
        picked = [table.unflatten(1, (NUM_FRAMES, -1))[:, self.frames].flatten(1, 2) for table in self.rope(whole)]
        return picked[0], picked[1]


def build_transformer(seed: int) -> WanTransformer3DModel:
    """The untrained denoiser: 12 blocks, 4 heads of 32, 3.37 M parameters; its output starts at zero."""
    torch.manual_seed(seed)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=256,
        ffn_dim=512,
        num_layers=12,
        cross_attn_norm=True,
        rope_max_seq_len=64,
    )
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)
    return model


class ClipPool:
    """This worker's share of the clips: latents [N, 16, 9, 12, 12] in half precision, caption indices [N]."""

    def __init__(self, config: TrainConfig, rank: int, world: int) -> None:
        captions = all_captions()
        trained = np.array([i for i, caption in enumerate(captions) if not caption.is_held_out])
        encode = LatentEncoder(build_vae())
        latents, labels = [], []
        for block in range(rank, config.pool_clips // CLIPS_PER_BLOCK, world):
            rng = np.random.default_rng([config.seed, block])
            index = rng.choice(trained, size=CLIPS_PER_BLOCK)
            latents.append(encode(render([captions[i] for i in index], rng)).half())
            labels.append(torch.from_numpy(index))
        self.latents, self.labels = torch.cat(latents), torch.cat(labels)
        self.embeds = embed([caption.text for caption in captions] + [""])  # the last row is the empty prompt


def draw_sigmas(batch: int, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Stratified logit-normal noise levels, a part of them uniform, shifted towards noise: [B] in (0, 1)."""
    u = (torch.rand(batch, generator=generator) + torch.randperm(batch, generator=generator)) / batch
    u = u.clamp(1e-3, 1 - 1e-3)
    bell = torch.sigmoid(math.sqrt(2) * torch.erfinv(2 * u - 1))
    sigmas = torch.where(torch.rand(batch, generator=generator) < config.uniform_fraction, u, bell)
    return config.shift * sigmas / (1 + (config.shift - 1) * sigmas)


class Trainer:
    """Model, moving average, optimizers and the step that ties them."""

    def __init__(self, config: TrainConfig, workdir: Path, rank: int, world: int, device: torch.device) -> None:
        self.config, self.workdir, self.rank, self.world, self.device = config, workdir, rank, world, device
        self.model = build_transformer(config.seed).to(device)
        self.plain_rope = self.model.rope
        self.model.rope = self.rope = FrameRope(self.model.rope)
        self.names = {name: p for name, p in self.model.named_parameters()}
        matrices = {n: p for n, p in self.names.items() if n.startswith("blocks.") and p.ndim == 2}
        others = [p for n, p in self.names.items() if n not in matrices]
        muon = torch.optim.Muon(list(matrices.values()), lr=config.muon_lr, weight_decay=0.01)
        adam = torch.optim.AdamW(others, lr=config.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.optimizers: list[tuple[torch.optim.Optimizer, float]] = [(muon, config.muon_lr), (adam, config.adam_lr)]
        self.clipped = others
        self.ema = {name: p.detach().clone() for name, p in self.names.items()}
        self.step = 0
        self.losses: list[float] = []
        if (workdir / "state.json").exists():
            self.load()
        self.model.compile_repeated_blocks()
        self.wrapped = DistributedDataParallel(self.model) if world > 1 else self.model

    def learning_rate_factor(self) -> float:
        """Linear warm-up, flat, then linear to 2 % over the last ``decay_steps``."""
        left = (self.config.num_steps - self.step) / self.config.decay_steps
        return min(1.0, (self.step + 1) / self.config.warmup_steps) * min(1.0, max(0.02, left))

    def batch(self, pool: ClipPool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Clean latents, embeddings, sigmas and the frames shown, all drawn from (seed, step, rank)."""
        config = self.config
        first = self.step < config.stage1_steps
        size = (config.stage1_batch if first else config.stage2_batch) // self.world
        draw = torch.Generator().manual_seed((config.seed << 40) + (self.step << 8) + self.rank)
        index = torch.randint(len(pool.labels), (size,), generator=draw)
        latents, labels = pool.latents[index].float(), pool.labels[index].clone()
        labels[torch.rand(size, generator=draw) < config.caption_dropout] = len(pool.embeds) - 1
        sigmas = draw_sigmas(size, config, draw)
        frames = torch.randperm(NUM_FRAMES, generator=draw)[: config.stage1_frames].sort().values if first else None
        return latents if frames is None else latents[:, :, frames], pool.embeds[labels], sigmas, frames

    def train_step(self, pool: ClipPool) -> float:
        """One optimizer step; returns this worker's loss (mean squared velocity error)."""
        clean, embeds, sigmas, self.rope.frames = self.batch(pool)
        noise = torch.randn(
            clean.shape, generator=torch.Generator().manual_seed((7 << 50) + (self.step << 8) + self.rank)
        )
        clean, embeds, sigmas, noise = (x.to(self.device) for x in (clean, embeds, sigmas, noise))
        level = sigmas.view(-1, 1, 1, 1, 1)
        noisy = (1 - level) * clean + level * noise
        # On a CPU the plain softmax is twice as fast as the fused kernel's backward at these lengths.
        with sdpa_kernel(SDPBackend.MATH), torch.autocast(self.device.type, torch.bfloat16):
            velocity = self.wrapped(noisy, sigmas * 1000, embeds, return_dict=False)[0]
        loss = (velocity.float() - (noise - clean)).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.clipped, 1.0)
        factor = self.learning_rate_factor()
        for optimizer, lr in self.optimizers:
            optimizer.param_groups[0]["lr"] = lr * factor
            optimizer.step()
            optimizer.zero_grad()
        keep = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.values()), [p.detach() for p in self.names.values()], 1 - keep)
        self.step += 1
        return float(loss.detach())

    def save(self) -> None:
        """Write the whole state; ``state.json`` last and atomically, so a kill leaves the previous one valid."""
        tensors = {f"model/{n}": p.detach() for n, p in self.names.items()} | {
            f"ema/{n}": p for n, p in self.ema.items()
        }
        by_parameter = {p: n for n, p in self.names.items()}
        for optimizer, _ in self.optimizers:
            for parameter, state in optimizer.state.items():
                tensors |= {f"optimizer/{key}/{by_parameter[parameter]}": value for key, value in state.items()}
        name = f"state-{self.step}.safetensors"
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, self.workdir / name)
        record = {"step": self.step, "tensors": name, "config": asdict(self.config), "losses": self.losses}
        temporary = self.workdir / "state.json.tmp"
        temporary.write_text(json.dumps(record))
        temporary.replace(self.workdir / "state.json")
        for old in self.workdir.glob("state-*.safetensors"):
            if old.name != name:
                old.unlink()

    def load(self) -> None:
        """Continue from ``workdir``; a different recipe there is refused."""
        record = json.loads((self.workdir / "state.json").read_text())
        if record["config"] != asdict(self.config):
            raise SystemExit(
                f"{self.workdir} holds a run with another recipe: {record['config']}. Use a fresh --workdir."
            )
        tensors = load_file(self.workdir / record["tensors"])
        self.step, self.losses = record["step"], record["losses"]
        with torch.no_grad():
            for name, parameter in self.names.items():
                parameter.copy_(tensors[f"model/{name}"])
                self.ema[name].copy_(tensors[f"ema/{name}"])
        for optimizer, _ in self.optimizers:
            for parameter in optimizer.param_groups[0]["params"]:
                name = next(n for n, p in self.names.items() if p is parameter)
                keys = [k for k in tensors if k.startswith("optimizer/") and k.endswith("/" + name)]
                optimizer.state[parameter] = {k.split("/")[1]: tensors[k] for k in keys if k.split("/", 2)[2] == name}

    def export(self) -> WanTransformer3DModel:
        """The moving average as a plain model."""
        model = build_transformer(self.config.seed)
        model.load_state_dict({n: p.cpu() for n, p in self.ema.items()}, strict=False)
        return model.eval()


def main() -> None:
    """Train, or continue, in ``--workdir``; leaves the moving average in its ``transformer`` folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--save-every-seconds", type=float, default=180)
    args = parser.parse_args()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu":  # one thread a worker: two workers beat one with two threads by far
        torch.set_num_threads(1)
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank = dist.get_rank() if world > 1 else 0
    args.workdir.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(TrainConfig(), args.workdir, rank, world, device)
    pool = ClipPool(trainer.config, rank, world)
    start = saved = time.monotonic()
    while trainer.step < trainer.config.num_steps:
        trainer.losses.append(round(trainer.train_step(pool), 5))
        if rank == 0 and trainer.step % 50 == 0:
            recent = sum(trainer.losses[-50:]) / len(trainer.losses[-50:])
            print(
                f"{time.monotonic() - start:6.0f}s step {trainer.step}/{trainer.config.num_steps} loss {recent:.4f}",
                flush=True,
            )
        if rank == 0 and time.monotonic() - saved > args.save_every_seconds:
            trainer.save()
            saved = time.monotonic()
    if rank == 0:
        trainer.save()
        trainer.export().save_pretrained(args.workdir / "transformer")


if __name__ == "__main__":
    main()
