"use strict";
/* The reader's choices are in the URL's fragment, as #key=value&key=value, so that a link shows the same view.
   getState(key) is "" if nothing is chosen; setState(key, "") clears the choice. The window receives "statechange"
   whenever something has changed, by a script or by the reader's navigating back. */
(() => {
  const read = () => {
    const text = location.hash.replace(/^#/, "");
    // A fragment without "=" is an anchor of the page, not a state.
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
    // Replaces the current history entry, so that "back" does not step through every choice.
    history.replaceState(null, "", fragment ? `#${fragment}` : location.pathname + location.search);
    window.dispatchEvent(new Event("statechange"));
  };

  window.addEventListener("hashchange", () => {
    const next = read();
    // A link to one row keeps the other choices.
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
