"""The work that peer_code.py compares, with steering-vectors."""

# ruff: noqa: F821
# load
import torch
from steering_vectors import SteeringVector, record_activations, train_steering_vector
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(folder)
# train
pairs = list(zip(positive, negative, strict=True))
formal = train_steering_vector(model, tokenizer, pairs, batch_size=len(pairs))
# apply
answers = []
with SteeringVector({14: formal.layer_activations[14]}).apply(model):
    for prompt in prompts:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=32)
        start = inputs["input_ids"].shape[1]
        answers.append(tokenizer.decode(ids[0, start:], skip_special_tokens=True))
# apply in a batch
tokenizer.padding_side = "left"
inputs = tokenizer.apply_chat_template(
    [[{"role": "user", "content": prompt}] for prompt in prompts],
    add_generation_prompt=True,
    padding=True,
    return_dict=True,
    return_tensors="pt",
)
with SteeringVector({14: formal.layer_activations[14]}).apply(model):
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=32)
start = inputs["input_ids"].shape[1]
answers = tokenizer.batch_decode(ids[:, start:], skip_special_tokens=True)
# score
direction = torch.nn.functional.normalize(formal.layer_activations[14], dim=0)
scores = []
for prompt, response in texts:
    chat = [{"role": "user", "content": prompt}]
    before = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    start = len(tokenizer(before)["input_ids"])
    with torch.no_grad(), record_activations(model, layer_nums=[14]) as recorded:
        model(**tokenizer(before + response, return_tensors="pt"))
    scores.append((recorded[14][0][0, start:] @ direction).mean().item())
# save
torch.save(formal, out / "formal.pt")
formal = torch.load(out / "formal.pt", weights_only=False)
