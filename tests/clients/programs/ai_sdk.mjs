// Vercel's AI SDK with @ai-sdk/openai: responses is its way, chat by `.chat()`.
import { createOpenAI } from "@ai-sdk/openai";
import { Output, embedMany, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { CALL, EMBEDDING_MODEL, LONG, SAY, TAKEN, TEXTS, run } from "./program.mjs";

const CITY = z.object({ name: z.string(), people: z.int() });

const provider = (access) => createOpenAI({ baseURL: `${access.url}/v1`, apiKey: access.token });

const cases = (model) => ({
  async chat(access) {
    return (await generateText({ model: model(access), prompt: SAY })).text;
  },
  async stream(access) {
    const pieces = [];
    for await (const piece of streamText({ model: model(access), prompt: SAY }).textStream) pieces.push(piece);
    return pieces;
  },
  async tools(access) {
    const called = [];
    const weather = tool({
      description: "The weather of a city",
      inputSchema: z.object({ city: z.string() }),
      execute: async (given) => {
        called.push(given);
        return `Sunny in ${given.city}`;
      },
    });
    await generateText({ model: model(access), prompt: CALL, tools: { weather }, stopWhen: stepCountIs(3) });
    if (called.length !== 1) throw new Error(`called ${called.length} times`);
    return called[0];
  },
  async structured(access) {
    const output = Output.object({ schema: CITY });
    return (await generateText({ model: model(access), prompt: SAY, output })).output;
  },
  async abort(access) {
    const leaving = new AbortController();
    let taken = 0;
    const { textStream } = streamText({ model: model(access), prompt: LONG, abortSignal: leaving.signal });
    for await (const _ of textStream) {
      if (++taken === TAKEN) {
        leaving.abort();
        break;
      }
    }
    return taken;
  },
});

const chat = cases((access) => provider(access).chat(access.model));
const responses = cases((access) => provider(access)(access.model));

async function embeddings(access) {
  const model = provider(access).embedding(EMBEDDING_MODEL);
  return (await embedMany({ model, values: TEXTS })).embeddings.map((each) => each.length);
}

await run({
  chat: { ...chat, quota: chat.chat, key: chat.chat },
  responses: { ...responses, quota: responses.chat, key: responses.chat, embeddings },
});
