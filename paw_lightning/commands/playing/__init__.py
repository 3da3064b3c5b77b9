"""The two ways to play: by hand, and by a policy that is watched."""
