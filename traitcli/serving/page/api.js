// Talks to the server: requests with the key, streams of an answer, and errors in plain words.

const KEY = "traitcli-key";

/** The key of this tab. A browser may forbid storage; the key is then in memory only. */
const apiKey = {
  own: "",
  get() {
    try {
      return sessionStorage.getItem(KEY) ?? this.own;
    } catch {
      return this.own;
    }
  },
  set(key) {
    this.own = key;
    try {
      sessionStorage.setItem(KEY, key);
    } catch {
      // It is kept in memory.
    }
  },
};

/** An error that the page shows as it is; `needsKey` if another key may help. */
class Refused extends Error {
  constructor(message, status = 0) {
    super(message);
    this.needsKey = status === 401;
  }
}

const UNREACHABLE = "The server cannot be reached. Is it still running?";

/** What went wrong, in the words of somebody who does not know HTTP. */
function wordsOf(status, message, retryAfter) {
  const later = retryAfter ? ` Try again in ${retryAfter} s.` : " Try again later.";
  if (status === 401) return "The server needs another API key.";
  if (status === 413) return `The message is too long for this server. ${message}`;
  if (status === 429) return `The server is busy: too many requests wait.${later}`;
  if (status === 503) return "The server is about to stop, and takes no more requests.";
  if (status >= 500) return `The server has made a mistake: ${message}`;
  return `The server refused this: ${message}`;
}

async function refusal(response) {
  let message = response.statusText || `status ${response.status}`;
  try {
    const { error } = await response.json();
    if (typeof error?.message === "string") message = error.message;
  } catch {
    // A proxy may answer with something else.
  }
  const after = response.headers.get("retry-after");
  return new Refused(wordsOf(response.status, message, after), response.status);
}

/** Send a request; throws Refused for every status that is not a success. */
async function send(path, options = {}) {
  const key = apiKey.get();
  if (!isHeader(key)) throw new Refused(wordsOf(401), 401);
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(UNREACHABLE);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** Whether a key can be sent at all: headers hold Latin-1 only. */
const isHeader = (text) => /^[\x20-\x7e\xa0-\xff]*$/.test(text);

const readJson = async (path) => (await send(path)).json();

/** The data of each event in a stream of bytes; throws TypeError when the connection is lost. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}

/**
 * Ask for an answer. Calls `onStart` with the id of the record, and `onChoice` with each part of
 * the answer; returns after the last one.
 *
 * Throws Refused, also in the middle; AbortError when `signal` stopped it.
 */
async function streamAnswer(body, signal, onStart, onChoice) {
  const response = await send("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  onStart(response.headers.get("x-traitcli-record") ?? "");
  try {
    for await (const data of eventsOf(response.body)) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) {
        const status = event.error.code === "server_stopping" ? 503 : 500;
        throw new Refused(wordsOf(status, String(event.error.message)));
      }
      if (event.choices?.length > 0) onChoice(event.choices[0]);
    }
  } catch (error) {
    if (error instanceof Refused || signal.aborted) throw error;
    throw new Refused("The connection was lost. What has arrived is kept.");
  }
  throw new Refused("The connection was lost. What has arrived is kept.");
}

const PATIENCE = 20;

/** The text of a record; null if the server does not have it, or is gone. */
async function fetchRecord(id) {
  // An answer that was stopped ends before its next token, and then has a record.
  for (let attempt = 0; attempt < PATIENCE; attempt += 1) {
    try {
      return await (await send(`v1/traitcli/records/${encodeURIComponent(id)}`)).text();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 100 + 50 * attempt));
    }
  }
  return null;
}
