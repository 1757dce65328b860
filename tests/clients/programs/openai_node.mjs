// OpenAI's SDK for Node.
import OpenAI, { toFile } from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { CALL, EMBEDDING_MODEL, LONG, SAY, TAKEN, TEXTS, UPLOAD, run } from "./program.mjs";

const CITY = z.object({ name: z.string(), people: z.int() });
const PARAMETERS = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};

const sdk = (access) => new OpenAI({ baseURL: `${access.url}/v1`, apiKey: access.token });
const asked = ({ model }, text) => ({ model, messages: [{ role: "user", content: text }] });

const chat = {
  async chat(access) {
    return (await sdk(access).chat.completions.create(asked(access, SAY))).choices[0].message.content;
  },
  async stream(access) {
    const pieces = [];
    for await (const chunk of await sdk(access).chat.completions.create({ ...asked(access, SAY), stream: true })) {
      if (chunk.choices[0]?.delta.content) pieces.push(chunk.choices[0].delta.content);
    }
    return pieces;
  },
  async tools(access) {
    const tools = [{ type: "function", function: { name: "weather", parameters: PARAMETERS, strict: true } }];
    const answer = await sdk(access).chat.completions.stream({ ...asked(access, CALL), tools }).finalChatCompletion();
    return answer.choices[0].message.tool_calls[0].function.arguments;
  },
  async structured(access) {
    const format = { response_format: zodResponseFormat(CITY, "city") };
    return (await sdk(access).chat.completions.parse({ ...asked(access, SAY), ...format })).choices[0].message.parsed;
  },
  async embeddings(access) {
    const found = await sdk(access).embeddings.create({ model: EMBEDDING_MODEL, input: TEXTS });
    return found.data.map((each) => each.embedding.length);
  },
  async upload(access) {
    const file = await toFile(Buffer.from(UPLOAD), "lines.jsonl");
    const made = await sdk(access).files.create({ file, purpose: "batch" });
    return (await sdk(access).files.content(made.id)).text();
  },
  async abort(access) {
    let taken = 0;
    for await (const chunk of await sdk(access).chat.completions.create({ ...asked(access, LONG), stream: true })) {
      if (chunk.choices[0]?.delta.content && ++taken === TAKEN) break;
    }
    return taken;
  },
};

const responses = {
  async chat(access) {
    return (await sdk(access).responses.create({ model: access.model, input: SAY })).output_text;
  },
  async stream(access) {
    const pieces = [];
    for await (const event of await sdk(access).responses.create({ model: access.model, input: SAY, stream: true })) {
      if (event.type === "response.output_text.delta") pieces.push(event.delta);
    }
    return pieces;
  },
  async tools(access) {
    const tools = [{ type: "function", name: "weather", parameters: PARAMETERS, strict: true }];
    const answer = await sdk(access).responses.create({ model: access.model, input: CALL, tools });
    return answer.output.find((item) => item.type === "function_call").arguments;
  },
  async structured(access) {
    const format = { text: { format: zodTextFormat(CITY, "city") } };
    return (await sdk(access).responses.parse({ model: access.model, input: SAY, ...format })).output_parsed;
  },
  async abort(access) {
    let taken = 0;
    for await (const event of await sdk(access).responses.create({ model: access.model, input: LONG, stream: true })) {
      if (event.type === "response.output_text.delta" && ++taken === TAKEN) break;
    }
    return taken;
  },
};

await run({
  chat: { ...chat, quota: chat.chat, key: chat.chat },
  responses: { ...responses, quota: responses.chat, key: responses.chat },
});
