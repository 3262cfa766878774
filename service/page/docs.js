// The API's reference, from /openapi.json: every route with its parameters, an example and what
// can go wrong.

const schema = await (await fetch('openapi.json')).json();

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A description's markdown: paragraphs, `code` and **bold**, which is all that is used in it. */
function prose(text) {
  return (text ?? '').split(/\n\n+/).filter(Boolean).map((paragraph) =>
    make('p', {}, ...paragraph.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
      if (part.startsWith('`')) return make('code', {}, part.slice(1, -1));
      if (part.startsWith('**')) return make('strong', {}, part.slice(2, -2));
      return part;
    })));
}

const resolved = (node) =>
  node?.$ref ? resolved(node.$ref.slice(2).split('/').reduce((inner, key) => inner[key], schema)) : (node ?? {});

function kind(node) {
  const inner = resolved(node);
  const choices = inner.anyOf ?? inner.oneOf;
  if (choices) return choices.map(kind).filter((each) => each !== 'null').join(' or ');
  if (inner.enum) return inner.enum.map((each) => JSON.stringify(each)).join(' or ');
  if (inner.const) return JSON.stringify(inner.const);
  if (inner.type === 'array') return `list of ${kind(inner.items)}`;
  if (inner.contentMediaType || inner.format === 'binary') return 'file';
  return inner.type ?? 'any';
}

function bounds(node) {
  const inner = resolved(node);
  const range = [inner, ...(inner.anyOf ?? [])].find((each) => each.maximum !== undefined || each.minimum !== undefined || each.exclusiveMinimum !== undefined);
  if (!range) return '';
  return `${range.exclusiveMinimum !== undefined ? `over ${range.exclusiveMinimum}` : `${range.minimum ?? ''}`} to ${range.maximum ?? ''}`;
}

function example(media) {
  const named = Object.values(media?.examples ?? {})[0]?.value;
  const answer = resolved(media?.schema);
  return media?.example ?? named ?? answer.examples?.[0] ?? answer.anyOf?.map(resolved).find((each) => each.examples)?.examples[0];
}

function fields(rows) {
  return make('dl', { className: 'fields' }, ...rows.flatMap(({ name, node, required, description }) => [
    make('dt', {}, make('code', {}, name), make('span', {}, [kind(node), bounds(node), required ? 'required' : defaulted(node)].filter(Boolean).join(', '))),
    make('dd', {}, ...prose(description ?? resolved(node).description)),
  ]));
}

const defaulted = (node) => (node.default === undefined || node.default === null ? '' : `default ${JSON.stringify(node.default)}`);

const rowsOf = (node) => {
  const inner = resolved(node);
  return Object.entries(inner.properties ?? {}).map(([name, each]) => ({ name, node: each, required: inner.required?.includes(name), description: each.description }));
};

function curl(method, path, media, type) {
  const filled = path.replace('{collection}', 'demo').replace('{id}', 'snow2.jpg');
  const verb = method === 'get' || (method === 'post' && media) ? '' : ` -X ${method.toUpperCase()}`;
  let body = '';
  if (type === 'application/json' && example(media)) {
    body = ` \\\n  -H 'Content-Type: application/json' \\\n  -d '${JSON.stringify(example(media))}'`;
  } else if (type === 'multipart/form-data') {
    const { file, ...rest } = example(media) ?? {};
    body = ` \\\n  -F file=@picture.jpg${Object.entries(rest).map(([name, value]) => ` \\\n  -F '${name}=${value}'`).join('')}`;
  }
  return `curl${verb} ${location.origin}${filled}${body}`;
}

function operation(method, path, route) {
  const [type, media] = Object.entries(route.requestBody?.content ?? {})[0] ?? [];
  const section = make('section', { id: route.operationId }, make('h3', {}, route.summary), make('p', { className: 'route' }, make('b', {}, method.toUpperCase()), ` ${path}`), ...prose(route.description), make('pre', {}, curl(method, path, media, type)));
  const parameters = (route.parameters ?? []).map((each) => ({ name: each.name, node: each.schema, required: each.required, description: each.description }));
  if (parameters.length) section.append(make('h4', {}, 'Parameters'), fields(parameters));
  if (media) {
    const rows = rowsOf(media.schema?.anyOf?.[0] ?? media.schema);
    if (rows.length) section.append(make('h4', {}, type === 'application/json' ? 'Body, JSON' : 'Body, form'), fields(rows));
    const query = resolved(media.schema).properties?.query;
    const inner = query && rowsOf(query.anyOf?.[0] ?? query);
    if (inner?.length) section.append(make('h4', {}, 'Of query, one of'), fields(inner));
  }
  const wrong = [];
  for (const [status, answer] of Object.entries(route.responses)) {
    const problem = answer.content?.['application/problem+json'];
    if (problem) {
      wrong.push(...Object.entries(problem.examples).map(([name, { summary }]) => make('li', {}, make('a', { href: `#${name}` }, `${status} ${summary}`))));
      continue;
    }
    section.append(make('h4', {}, `${status}: ${answer.description}`));
    const shown = example(Object.values(answer.content ?? {})[0]);
    if (shown !== undefined) section.append(make('pre', {}, typeof shown === 'string' ? shown : JSON.stringify(shown, null, 2)));
  }
  if (wrong.length) section.append(make('h4', {}, 'Problems'), make('ul', { className: 'problems' }, ...wrong));
  return section;
}

const reference = document.getElementById('reference');
const contents = document.getElementById('contents');
reference.append(make('h1', {}, 'API reference'), ...prose(schema.info.description));

for (const tag of schema.tags) {
  reference.append(make('h2', { id: `tag-${tag.name}` }, tag.name), ...prose(tag.description));
  const list = make('ul', {});
  contents.append(make('h2', {}, tag.name), list);
  for (const [path, routes] of Object.entries(schema.paths)) {
    for (const [method, route] of Object.entries(routes)) {
      if (!route.tags?.includes(tag.name)) continue;
      reference.append(operation(method, path, route));
      list.append(make('li', {}, make('a', { href: `#${route.operationId}` }, route.summary)));
    }
  }
}

reference.append(make('h2', { id: 'problems' }, 'problems'), ...prose('Every error answer is `application/problem+json` (RFC 9457). Its `type` is one of these; its `detail` says what was found and what was expected.'));
contents.append(make('h2', {}, make('a', { href: '#problems' }, 'problems')));
for (const problem of schema['x-problems']) {
  reference.append(make('section', { id: problem.name, className: 'problem' }, make('h3', {}, `${problem.status} ${problem.title}`), make('p', { className: 'route' }, `/docs#${problem.name}`), ...prose(problem.meaning)));
}

if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
