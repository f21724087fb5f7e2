"""One attention block, forward and backward, over 64 sets of 50 to 2048 points: width 64, 4 heads, a hidden layer of 64.

    python3 torch_attention.py padded|packed SECONDS      prints the milliseconds of the fastest run

padded: all sets as long as the longest, with a mask. packed: the rows of all sets one after another in every linear layer, and one
call of scaled_dot_product_attention a set.
"""

import sys
import time

import torch
from torch import nn
from torch.nn import functional

import worker

WIDTH, HEADS = 64, 4
SIZES = [50 + set_number * 1998 // 63 for set_number in range(64)]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.output, self.up, self.down = (nn.Linear(WIDTH, WIDTH) for _ in range(6))
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def finish(self, x, a):
        x = self.norm1(x + self.output(a))
        return self.norm2(x + self.down(functional.gelu(self.up(x))))

    def padded(self, x, mask):
        def heads(rows):
            return rows.unflatten(-1, (HEADS, -1)).transpose(1, 2)

        q, k, v = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        a = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.finish(x, a.transpose(1, 2).flatten(2))

    def packed(self, x):
        def sets(rows):
            return [part.unflatten(-1, (HEADS, -1)).transpose(0, 1)[None] for part in rows.split(SIZES)]

        parts = zip(sets(self.query(x)), sets(self.key(x)), sets(self.value(x)))
        a = [functional.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1) for q, k, v in parts]
        return self.finish(x, torch.cat(a))


def main():
    how, seconds = sys.argv[1], float(sys.argv[2])
    torch.set_num_threads(worker.threads())
    torch.manual_seed(0)
    block, rows = Block(), torch.randn(sum(SIZES), WIDTH)
    if how == "padded":
        x = nn.utils.rnn.pad_sequence(rows.split(SIZES), batch_first=True)
        lengths = torch.tensor(SIZES)
        arguments = [x.requires_grad_(), (torch.arange(max(SIZES)) < lengths[:, None])[:, None, None]]
    else:
        arguments = [rows.requires_grad_()]
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < seconds:
        before = time.perf_counter()
        getattr(block, how)(*arguments).sum().backward()
        best = min(best, time.perf_counter() - before)
    print(best * 1e3)


if __name__ == "__main__":
    main()
