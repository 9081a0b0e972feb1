"""The same from Python: train a recipe everywhere, then ask whether the runs do the same thing.

python examples/from_python.py
"""

from lockstep import compare, load_recipe, prepare, train


def main() -> None:
    """Train breast_cancer, with half its epochs, and compare each framework with the oracle."""
    recipe = load_recipe("breast_cancer", ["training.epochs=7"])
    data = prepare(recipe)
    oracle = train(recipe, data, backend="oracle")
    for backend in ("torch", "jax"):
        trace = train(recipe, data, backend=backend)
        loss, accuracy = trace.metric("held_out_loss")[-1], trace.metric("held_out_accuracy")[-1]
        verdict = compare(trace, oracle).verdict
        print(
            f"{backend}: held-out loss {loss:.4f}, accuracy {accuracy:.1%}; against the "
            f"oracle: {verdict}"
        )


if __name__ == "__main__":
    main()
