"""Sampling from a policy: prompts as token ids, a sampler that computes each prompt once, candidates with resume."""
