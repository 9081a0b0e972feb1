"""What one loop's optimizer does with its gradients beside the other's."""
