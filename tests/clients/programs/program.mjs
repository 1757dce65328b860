// What the programs for Node share: as program.py beside this folder, for those in Python.
export const SAY = "Say hello";
export const CALL = "What is the weather in Paris? [[tool]]";
export const LONG = "Tell me a long story [[tokens=600 delay=0.02]]";
export const TAKEN = 3;
export const EMBEDDING_MODEL = "text-embedding-3-small";
export const TEXTS = ["one", "two"];
export const UPLOAD = '{"prompt": "one"}\n{"prompt": "two"}\n';

export async function run(ways) {
  const { url, way, cases } = JSON.parse(process.argv[2]);
  for (const [name, access] of Object.entries(cases)) {
    let outcome;
    try {
      outcome = { told: await ways[way][name]({ url, ...access }) };
    } catch (error) {
      outcome = { raised: `${error.name}: ${error.message} ${error.responseBody ?? ""}`, traceback: error.stack };
    }
    console.log(JSON.stringify({ case: name, ...outcome }));
  }
}
