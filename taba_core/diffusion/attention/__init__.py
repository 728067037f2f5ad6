"""Attention control: editors that sample a source and its target side by side, behind any inversion.

An editor is a small class (`editor`), found by name (`registry`) in the room `editors`. What it does inside one
evaluation is a `control`; `processor` puts it into the layers of a U-Net (`layers`), `controlled` makes of both a
denoiser of pairs, and `sampling` runs any sampler on it.
"""
