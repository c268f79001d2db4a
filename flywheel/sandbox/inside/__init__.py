"""What runs inside a sandbox: standard library only, sent in as source text. `plain` is used on both sides."""
