// Asks what the official Node client can ask, and prints what it got as one JSON document.
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const says = (content) => [{ role: "user", content }];
const told = {};

async function refused(call) {
  try {
    await call();
    return null;
  } catch (error) {
    const { status, code, param, type, message } = error;
    return { kind: error.constructor.name, status, code, param, type, message, requestID: error.requestID };
  }
}

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

told.models = [];
for await (const model of await client.models.list()) told.models.push(model.id);
told.alias = (await client.models.retrieve("gpt-4o-mini")).id;

const { data, request_id } = await client.chat.completions
  .create({ model: "echo", messages: says("hello"), seed: 1, temperature: 0.5, stop: ["zz"] })
  .withResponse();
told.whole = data;
told.requestId = request_id;

told.chunks = await collect(
  await client.chat.completions.create({
    model: "echo",
    messages: says("in pieces"),
    stream: true,
    stream_options: { include_usage: true },
  }),
);

const runner = client.chat.completions.stream({ model: "echo", messages: says("by the helper") });
told.assembled = (await runner.finalChatCompletion()).choices[0].message.content;

told.text = (await client.completions.create({ model: "echo", prompt: "text" })).choices[0].text;
told.textChunks = await collect(await client.completions.create({ model: "echo", prompt: "text", stream: true }));

told.several = await refused(() => client.chat.completions.create({ model: "echo", messages: says("x"), n: 2 }));
told.unknown = await refused(() => client.chat.completions.create({ model: "gpt-9", messages: says("x") }));
told.tools = await refused(() =>
  client.chat.completions.create({
    model: "echo",
    messages: says("x"),
    tools: [{ type: "function", function: { name: "f", parameters: {} } }],
  }),
);
told.wrongKey = await refused(() => new OpenAI({ baseURL, apiKey: "sk-no", maxRetries: 0 }).models.list());
told.midway = await refused(async () =>
  collect(await client.chat.completions.create({ model: "echo", messages: says("break midway"), stream: true })),
);

// A reader that breaks off: the client closes the connection.
const endless = await client.chat.completions.create({
  model: "echo",
  messages: says("drip"),
  max_tokens: 2000,
  stream: true,
});
told.seen = 0;
for await (const chunk of endless) {
  if (chunk.choices[0].delta.content && ++told.seen === 5) break;
}

console.log(JSON.stringify(told));
