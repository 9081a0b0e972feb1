"""The same from Python: train a recipe with each backend, then ask whether the runs do the same thing.

python examples/from_python.py
"""

import jax_impl.train
import lockstep.oracle.train
import pt_impl.train
from lockstep.data_prep import prepare
from lockstep.diagnose.compare import bounds_of, compare
from lockstep.recipe import load_recipe


def main() -> None:
    """Train breast_cancer, with half its epochs, everywhere and compare."""
    recipe = load_recipe("breast_cancer", ["training.epochs=7"])
    data = prepare(recipe)
    oracle = lockstep.oracle.train.train(recipe, data)
    traces = {"torch": pt_impl.train.train(recipe, data), "jax": jax_impl.train.train(recipe, data)}
    for backend, trace in traces.items():
        found = compare(trace, oracle, bounds_of(oracle) or {})
        loss, accuracy = trace.metric("held_out_loss")[-1], trace.metric("held_out_accuracy")[-1]
        print(f"{backend}: held-out loss {loss:.4f}, accuracy {accuracy:.1%}; against the oracle: {found.verdict}")


if __name__ == "__main__":
    main()
