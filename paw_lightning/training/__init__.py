"""What Lightning trains: the module, the stream of mini-batches, and the strategies that shard the model."""
