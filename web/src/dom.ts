// Elements from data. Text is always a text node: nothing that others named is ever read as markup.

type Child = Node | string | number | null | undefined | false | Child[];
type Props = Record<string, unknown>;

function fill(element: Element, props: Props | null, children: Child[]): void {
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value == null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value as EventListener);
    else if (key === "style") for (const [name, set] of Object.entries(value as Record<string, string>)) (element as HTMLElement).style.setProperty(name, set);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  append(element, children);
}

function append(element: Element, children: Child[]): void {
  for (const child of children) {
    if (child == null || child === false) continue;
    if (Array.isArray(child)) append(element, child);
    else element.append(child instanceof Node ? child : String(child));
  }
}

export function h<K extends keyof HTMLElementTagNameMap>(tag: K, props: Props | null = null, ...children: Child[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  fill(element, props, children);
  return element;
}

export function svg(tag: string, props: Props | null = null, ...children: Child[]): SVGElement {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(element, props, children);
  return element;
}

/** Shows these instead of what was there. */
export function show(element: Element, ...children: Child[]): void {
  element.replaceChildren();
  append(element, children);
}
