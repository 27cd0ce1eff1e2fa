import pytest
import torch
import torch.nn.functional as F

from ivideogpt_hf.decoding import attend


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("num_prefixes", [1, 3, 6])
def test_attention_over_prefix_and_tail_is_ordinary_attention(kv_heads, num_prefixes):
    rows, heads, num_queries, head_dim = 6, 4, 2, 8
    query = torch.randn(rows, heads, num_queries, head_dim)
    prefix = torch.randn(2, num_prefixes, kv_heads, 11, head_dim)
    tail = torch.randn(2, rows, kv_heads, 5, head_dim)
    hidden = torch.zeros(num_queries, 5, dtype=torch.bool)
    hidden[0, -1] = True  # the first of two new tokens does not see the second
    attended = attend(query, prefix, tail, hidden[None, None, None])

    repeated = prefix.repeat_interleave(rows // num_prefixes, dim=1)
    keys, values = torch.cat([repeated, tail], dim=3)
    mask = torch.cat([torch.ones(num_queries, 11, dtype=torch.bool), ~hidden], dim=1)
    expected = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=1.0, enable_gqa=True)
    torch.testing.assert_close(attended, expected, atol=1e-5, rtol=1e-5)
