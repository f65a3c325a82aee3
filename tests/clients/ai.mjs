// Asks a server as an application of Vercel's ai package does; prints what the package made of it.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const [address, model, prompt, seed, maxOutputTokens] = process.argv.slice(2);

// How an application keeps fields that OpenAI does not have.
const kept = (choices) => choices.map((choice) => choice.traitcli).filter(Boolean);
const metadataExtractor = {
  extractMetadata: async ({ parsedBody }) => ({ traitcli: { choices: kept(parsedBody.choices) } }),
  createStreamExtractor: () => {
    const found = [];
    return {
      processChunk: (chunk) => found.push(...kept(chunk.choices ?? [])),
      buildMetadata: () => ({ traitcli: { choices: found } }),
    };
  },
};
const provider = createOpenAICompatible({
  name: "traitcli",
  baseURL: address,
  apiKey: "none",
  includeUsage: true,
  metadataExtractor,
});
const call = {
  model: provider(model),
  prompt,
  seed: Number(seed),
  temperature: 2,
  maxOutputTokens: Number(maxOutputTokens),
  maxRetries: 0,
};

const whole = await generateText(call);
const stream = streamText({ ...call, onError: () => {} });
const deltas = [];
const errors = [];
for await (const part of stream.fullStream) {
  if (part.type === "text-delta") deltas.push(part.text ?? part.delta);
  if (part.type === "error") errors.push(String(part.error));
}
let refused = null;
try {
  await generateText({ ...call, model: provider("another") });
} catch (error) {
  refused = { name: error.name, status: error.statusCode, message: error.message };
}
console.log(
  JSON.stringify({
    whole: {
      text: whole.text,
      finish: whole.finishReason,
      usage: whole.usage,
      choices: whole.providerMetadata?.traitcli?.choices,
    },
    stream: {
      deltas,
      errors,
      finish: await stream.finishReason,
      usage: await stream.usage,
      choices: (await stream.providerMetadata)?.traitcli?.choices,
    },
    refused,
  }),
);
