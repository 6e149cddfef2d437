// Client-side paths: the market serves the same document for all of them.

import type { ComponentProps } from 'preact';
import { useEffect, useState } from 'preact/hooks';

const CHANGED = 'plexus:path';

export function usePath(): string {
  const [path, setPath] = useState(location.pathname);
  useEffect(() => {
    const update = () => setPath(location.pathname);
    window.addEventListener('popstate', update);
    window.addEventListener(CHANGED, update);
    return () => {
      window.removeEventListener('popstate', update);
      window.removeEventListener(CHANGED, update);
    };
  }, []);
  return path.length > 1 ? path.replace(/\/+$/, '') : path;
}

/** A link within the app. */
export function Link({ href, ...rest }: Omit<ComponentProps<'a'>, 'href' | 'role'> & { href: string }) {
  const follow = (event: MouseEvent) => {
    if (
      event.defaultPrevented ||
      event.button !== 0 ||
      event.metaKey ||
      event.ctrlKey ||
      event.shiftKey ||
      event.altKey
    )
      return;
    event.preventDefault();
    history.pushState(null, '', href);
    window.dispatchEvent(new Event(CHANGED));
  };
  return <a href={href} onClick={follow} {...rest} />;
}
