"""The page that shows a run's episodes: its data, its text, and the server of a run in progress."""
