"""Two masked auto-encoders: a vision transformer of timm under a small decoder, and any network that paints images.

After He et al. 2022 (https://arxiv.org/abs/2111.06377). Both take images (B, 3, H, W) in [0, 1] and masks (B, N), see
masking.py, and paint all squares, (B, N, 3 * side * side), normalised. Both hide squares before any layer that mixes
them, so all that follows, pooling indices and batch statistics included, depends on visible squares alone.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from common.encoder_weights import import_timm
from common.masking import hide, squares_of
from common.settings import UserError


class MaskedTransformer(nn.Module):
    """A vision transformer of timm that encodes the visible squares alone, which are its patches, and a decoder.

    Position embeddings are fixed sines and cosines, in timm's place and for timm's size, of which timm interpolates
    those for other sizes: so the encoder's state dict goes into any model of that name.

    name: of timm; size: of the images, px a side; width, depth: of the decoder, whose heads are 32 wide.
    Raises UserError for a model that is no plain vision transformer, and for a size that its patches don't divide.
    """

    def __init__(self, name: str, size: int, width: int = 128, depth: int = 2) -> None:
        super().__init__()
        timm = import_timm()
        from timm.layers import PatchEmbed
        from timm.models.vision_transformer import Block, VisionTransformer

        with torch.device("meta"):
            found = timm.create_model(name) if timm.is_model(name) else None
        plain = isinstance(found, VisionTransformer) and isinstance(found.patch_embed, PatchEmbed)  # no hybrid
        if not plain or found.pos_embed is None:
            raise UserError(f"NETWORK={name} is no plain vision transformer of timm, such as vit_tiny_patch16_224")
        self.encoder = timm.create_model(name, num_classes=0, dynamic_img_size=True)
        self.side = self.encoder.patch_embed.patch_size[0]
        check_divides(size, self.side)
        self.prefix = self.encoder.num_prefix_tokens  # the class token, and registers
        config = timm.get_pretrained_cfg(name)  # train.py normalises by the same
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1))
        self.narrow = nn.Linear(self.encoder.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder = nn.Sequential(*(Block(width, width // 32, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.paint = nn.Linear(width, 3 * self.side**2)
        self.register_buffer("places", positions((size // self.side,) * 2, width)[None], persistent=False)
        self.begin()

    def begin(self) -> None:
        """First weights, as in the paper's code: Xavier's for every matrix, position embeddings fixed."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias) if module.bias is not None else None
        nn.init.xavier_uniform_(self.encoder.patch_embed.proj.weight.flatten(1))  # a matrix in all but its shape
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.normal_(self.encoder.cls_token, std=0.02) if self.encoder.cls_token is not None else None
        own = self.encoder.pos_embed.requires_grad_(False)
        fixed = positions(self.encoder.patch_embed.grid_size, self.encoder.embed_dim)
        with torch.no_grad():
            own.zero_()[:, own.shape[1] - len(fixed) :] = fixed  # a class token has no place

    def forward(self, images: Tensor, hidden: Tensor, random: torch.Generator | None = None) -> Tensor:
        tokens = self.narrow(self.encode(images, hidden))
        prefix, seen = tokens[:, : self.prefix], tokens[:, self.prefix :]
        squares = self.mask_token.to(tokens.dtype).expand(*hidden.shape, -1).clone()
        squares[~hidden] = seen.flatten(0, 1)
        decoded = self.decoder(torch.cat((prefix, squares + self.places), 1))
        return self.paint(self.norm(decoded[:, self.prefix :]))

    def encode(self, images: Tensor, hidden: Tensor) -> Tensor:
        """The tokens (B, prefix + visible squares, C) of the encoder after its last norm."""
        encoder, n = self.encoder, len(images)
        tokens = encoder._pos_embed(encoder.patch_embed((images - self.mean) / self.std))  # of each patch by itself
        seen = tokens[:, self.prefix :][~hidden].view(n, -1, tokens.shape[-1])
        tokens = encoder.norm_pre(torch.cat((tokens[:, : self.prefix], seen), 1))
        return encoder.norm(encoder.blocks(tokens))

    def pretrained(self) -> nn.Module:
        """What has been pretrained, under timm's names."""
        return self.encoder


class MaskedPainter(nn.Module):
    """A network of three output channels, taken for R, G and B, that sees its images with squares filled otherwise.

    side: of the squares, px; filling: see masking.FILLINGS.
    """

    def __init__(self, network: nn.Module, side: int, filling: str) -> None:
        super().__init__()
        self.network, self.side, self.filling = network, side, filling

    def forward(self, images: Tensor, hidden: Tensor, random: torch.Generator) -> Tensor:
        return squares_of(self.network(hide(images, hidden, self.side, self.filling, random)), self.side)

    def pretrained(self) -> nn.Module:
        """What has been pretrained, under the network's own names."""
        return self.network


def check_divides(size: int, side: int) -> None:
    """Raises UserError, with the next sizes that will do, unless an image is several squares wide."""
    if size % side or size < 2 * side:
        near = sorted({max(2, size // side) * side, max(2, size // side + 1) * side})
        raise UserError(f"IMAGE_SIZE={size} can't be cut into squares of {side} px; {' and '.join(map(str, near))} can")


def positions(grid: tuple[int, int], width: int) -> Tensor:
    """Embeddings (rows * columns, width) of places: sines and cosines of the column, then of the row."""
    frequencies = 10_000 ** -(torch.arange(width // 4) / (width // 4))
    rows, columns = (torch.arange(n)[:, None] * frequencies for n in grid)  # (rows, width/4), (columns, width/4)
    of_row, of_column = (torch.cat((angle.sin(), angle.cos()), 1) for angle in (rows, columns))
    return torch.cat((of_column.repeat(grid[0], 1), of_row.repeat_interleave(grid[1], 0)), 1)


@torch.no_grad()
def settle_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Gives BatchNorm layers the mean and variance of whole images; those of masked ones are others.

    batches: of images in a random order; a last one that is smaller than the first is left out.
    """
    kinds = (nn.BatchNorm2d, nn.SyncBatchNorm)
    norms = [module for module in network.modules() if isinstance(module, kinds)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    network.train()
    whole = 0  # images of the first batch
    for images in batches if norms else ():
        if len(images) < whole:  # it would count as much as a whole one
            break
        whole = len(images)
        network(images)
    for norm, momentum in zip(norms, kept):
        norm.momentum = momentum
    network.eval()
