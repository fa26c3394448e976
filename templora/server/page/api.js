// Talks to the server that this page came from.

export class Refused extends Error {}

const headers = () => {
  const key = localStorage.getItem("templora.key");
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
};

async function asked(method, path, body, signal) {
  const send = () => fetch(path, { method, headers: headers(), body: body === undefined ? undefined : JSON.stringify(body), signal });
  let answer = await send();
  if (answer.status === 401) {
    const key = prompt("This server wants a key.");
    if (key) {
      localStorage.setItem("templora.key", key);
      answer = await send();
    }
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Refused(said.error?.message ?? `the server answered ${answer.status}`);
  }
  return answer;
}

export const get = async (path) => (await asked("GET", path)).json();
export const getText = async (path) => (await asked("GET", path)).text();
export const post = async (path, body) => (await asked("POST", path, body)).json();
export const put = async (path, body) => (await asked("PUT", path, body)).json();
export const remove = async (path) => (await asked("DELETE", path)).json();

// What a stream of events says, one after another.
export async function* events(path, body, signal, method = "POST") {
  const answer = await asked(method, path, body, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    let end;
    while ((end = held.indexOf("\n\n")) >= 0) {
      const data = held.slice(0, end).split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      held = held.slice(end + 2);
      if (!data || data === "[DONE]") continue;
      const said = JSON.parse(data);
      if (said.error) throw new Refused(said.error.message);
      yield said;
    }
  }
}
