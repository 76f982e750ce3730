"""What a policy can do, measured."""
