"""Page of a training fleet."""
