"""How fast encoding and scoring are beside the tools that others evaluate with: `unimodal bench`."""
