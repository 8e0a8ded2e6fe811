"""Parts of the tiny Cosmos pipelines: transformer, controlnet, video autoencoders and safety checker."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLCosmos, AutoencoderKLWan, CosmosControlNetModel, CosmosTransformer3DModel

from .text import TEXT_DIM

HIDDEN_SIZE = 24
_BLOCK = {
    "num_attention_heads": 2,
    "attention_head_dim": HIDDEN_SIZE // 2,
    "mlp_ratio": 2.0,
    "text_embed_dim": TEXT_DIM,
    "adaln_lora_dim": 4,
    "max_size": (32, 32, 32),
}


class PassingSafetyChecker:
    """Lets everything pass.

    A Cosmos pipeline is neither built nor called without a checker. The real one is in the package cosmos_guardrail,
    which downloads models. These are all the methods that the pipelines call.
    """

    def to(self, device: torch.device | str) -> PassingSafetyChecker:
        """Nothing to move."""
        return self

    def check_text_safety(self, prompt: str) -> bool:
        """Every prompt is safe."""
        return True

    def check_video_safety(self, frames: Any) -> Any:
        """Every frame is safe and stays as it is."""
        return frames


class ControlNetWithoutTorchvision(CosmosControlNetModel):
    """The real layers with a shorter forward; the real forward resizes a mask with torchvision."""

    def forward(
        self,
        controls_latents: torch.Tensor,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: tuple[torch.Tensor, torch.Tensor],
        condition_mask: torch.Tensor,
        **unused: Any,
    ) -> tuple[list[torch.Tensor]]:
        """One hint for each control block; the scale is 1, no pixel is padding, a timestep is given for each frame."""
        text, image = encoder_hidden_states
        context = (self.crossattn_proj(text), self.img_context_proj(image))
        masks = [condition_mask, torch.zeros_like(condition_mask)]
        control = torch.cat([controls_latents, *masks], dim=1)
        rotary = self.rope(control)
        control = self.patch_embed(control)
        base = self.patch_embed_base(torch.cat([latents, *masks], dim=1))

        batch_size, num_frames, height, width, _ = base.shape
        control, base = control.flatten(1, 3), base.flatten(1, 3)
        temb, embedded_timestep = (
            x.view(batch_size, num_frames, 1, 1, -1).expand(-1, -1, height, width, -1).flatten(1, 3)
            for x in self.time_embed(base, timestep.flatten())
        )
        hints = []
        for block in self.control_blocks:
            control, hint = block(control, context, embedded_timestep, temb, rotary, latents=base)
            hints.append(hint)
        return (hints,)


def cosmos_transformer(in_channels: int, seed: int = 0, **config: Any) -> CosmosTransformer3DModel:
    """A Cosmos transformer of four blocks that all matter."""
    torch.manual_seed(seed)
    transformer = CosmosTransformer3DModel(
        in_channels=in_channels,
        out_channels=16,
        num_layers=4,
        concat_padding_mask=False,  # the published models have it on, but the mask is resized with torchvision
        **{**_BLOCK, "extra_pos_embed_type": None, **config},
    )
    _open_gates(transformer.transformer_blocks)
    if transformer.learnable_pos_embed is not None:
        for parameter in transformer.learnable_pos_embed.parameters():
            torch.nn.init.normal_(parameter, std=0.2)  # zero in a fresh model
    return transformer.eval()


def cosmos_controlnet(seed: int = 3, **config: Any) -> ControlNetWithoutTorchvision:
    """A controlnet of two blocks for `cosmos_transformer`."""
    torch.manual_seed(seed)
    controlnet = ControlNetWithoutTorchvision(
        n_controlnet_blocks=2, in_channels=18, latent_channels=18, model_channels=HIDDEN_SIZE, **_BLOCK, **config
    )
    _open_gates(controlnet.control_blocks)
    return controlnet.eval()


def _open_gates(blocks: Any) -> None:
    """In a fresh model the gates are so small that a block adds little to its input."""
    for block in blocks:
        for norm in (block.norm1, block.norm2, block.norm3):
            torch.nn.init.normal_(norm.linear_2.weight)


def cosmos_vae(seed: int = 2) -> AutoencoderKLCosmos:
    """The autoencoder of Cosmos 1: 8 × smaller in space and in time, 16 channels."""
    torch.manual_seed(seed)
    channels = (4, 4, 4, 4)
    vae = AutoencoderKLCosmos(
        encoder_block_out_channels=channels, decode_block_out_channels=channels, attention_resolutions=(), num_layers=1
    )
    return vae.eval()


def wan_vae(seed: int = 2) -> AutoencoderKLWan:
    """The autoencoder of the later models: 8 × smaller in space and 4 × in time, 16 channels."""
    torch.manual_seed(seed)
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    return vae.eval()
