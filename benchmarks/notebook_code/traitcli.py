"""The work that peer_code.py compares, with traitcli."""

# ruff: noqa: F821
# load
import traitcli as tc

model = tc.load(folder)
# train
formal = model.train("formal", positive, negative)
# apply
with model.steer({formal: 1.0}):
    answers = [model.generate(one, max_new_tokens=32, temperature=0).text for one in prompts]
# score
scores = [answer.scores["formal"] for answer in model.score(texts, formal)]
# save
formal.save(out / "formal.safetensors")
formal = tc.read(out / "formal.safetensors")
