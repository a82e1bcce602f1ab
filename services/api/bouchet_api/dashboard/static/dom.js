// Elements from plain descriptions, and their changes: render() changes only what differs, so focus, selection and
// scrolling stay. All text goes in as text nodes; nothing here ever parses markup.

const SVG = "http://www.w3.org/2000/svg";
const AS_PROPERTY = new Set(["value", "checked", "disabled", "open", "selected", "indeterminate", "hidden"]);

/** Describe an element. Children may be nested lists; null, false and "" are left out. */
export function h(tag, props, ...children) {
  return { tag, props: props || {}, children: flatten(children, []) };
}

function flatten(children, found) {
  for (const child of children) {
    if (Array.isArray(child)) flatten(child, found);
    else if (child !== null && child !== undefined && child !== false && child !== "" && child !== true) {
      found.push(typeof child === "object" ? child : { text: String(child) });
    }
  }
  return found;
}

/** Make the children of `parent` what the descriptions say. */
export function render(parent, ...descriptions) {
  patch(parent, flatten(descriptions, []));
}

function patch(parent, wanted) {
  const before = parent.described || (parent.replaceChildren(), []);
  const byKey = new Map();
  before.forEach((one, index) => byKey.set(keyOf(one.description, index), one));
  const after = wanted.map((description, index) => {
    const key = keyOf(description, index);
    const known = byKey.get(key);
    if (known && known.description.tag === description.tag) {
      byKey.delete(key);
      change(known, description);
      return known;
    }
    return create(description, parent);
  });
  for (const gone of byKey.values()) gone.node.remove();
  after.forEach((one, index) => {
    const there = parent.childNodes[index];
    if (there !== one.node) parent.insertBefore(one.node, there || null);
  });
  parent.described = after;
}

function keyOf(description, index) {
  const key = description.props && description.props.key;
  return key === undefined ? `${index} ${description.tag || "text"}` : `key ${key}`;
}

function create(description, parent) {
  if (description.text !== undefined) return { description, node: document.createTextNode(description.text) };
  const isSvg = description.tag === "svg" || (parent.namespaceURI === SVG && parent.tagName !== "foreignObject");
  const node = isSvg ? document.createElementNS(SVG, description.tag) : document.createElement(description.tag);
  node.described = [];
  patch(node, description.children);
  for (const [name, value] of Object.entries(description.props)) set(node, name, value, undefined);
  if (description.props.ref) description.props.ref(node);
  return { description, node };
}

function change(known, description) {
  if (description.text !== undefined) {
    if (known.description.text !== description.text) known.node.data = description.text;
  } else {
    patch(known.node, description.children);
    const before = known.description.props;
    for (const name of Object.keys(before)) {
      if (!(name in description.props)) set(known.node, name, undefined, before[name]);
    }
    for (const [name, value] of Object.entries(description.props)) set(known.node, name, value, before[name]);
  }
  known.description = description;
}

function set(node, name, value, before) {
  if (name === "key" || name === "ref" || value === before) return;
  if (name.startsWith("on")) node[name] = value || null;
  else if (name === "style") for (const [key, part] of Object.entries(value || {})) node.style.setProperty(key, part);
  // what a person has changed stays until the description itself changes
  else if (AS_PROPERTY.has(name)) node[name] = value === undefined ? false : value;
  else if (value === undefined || value === null || value === false) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? "" : value);
}

/** Return a component's own redraw: many calls make one render, before the next frame. */
export function scheduler(draw) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    // a hidden page gets no frames; it is drawn when it is seen again
    requestAnimationFrame(() => { waiting = false; draw(); });
  };
}
