"use strict";
/* What the reader has chosen stands in the URL's fragment, as #key=value&key=value, so that a link shows the same.
   getState(key) is "" where nothing is chosen; setState(key, "") forgets the choice. The window hears "statechange"
   whenever something has changed, by a script or by the reader's going back. */
(() => {
  const read = () => {
    const text = location.hash.replace(/^#/, "");
    // A fragment without "=" is an anchor of the page, and no state.
    return new URLSearchParams(text.includes("=") ? text : "");
  };
  let state = read();

  window.getState = (key) => state.get(key) ?? "";

  window.setState = (key, value) => {
    const text = String(value ?? "");
    if (text === window.getState(key)) return;
    if (text) state.set(key, text);
    else state.delete(key);
    const fragment = state.toString();
    // The page's own address without its fragment, and no new step for the reader to go back through.
    history.replaceState(null, "", fragment ? `#${fragment}` : location.pathname + location.search);
    window.dispatchEvent(new Event("statechange"));
  };

  window.addEventListener("hashchange", () => {
    const next = read();
    // A link to one row leaves the other choices as they are.
    if ([...next.keys()].join() === "row") {
      const row = next.get("row");
      state.set("row", row);
      history.replaceState(null, "", `#${state}`);
    } else if (location.hash.includes("=") || !location.hash) {
      state = next;
    }
    window.dispatchEvent(new Event("statechange"));
  });
})();
