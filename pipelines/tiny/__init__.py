"""Parts of tiny pipelines that several families share: real classes, random weights, no download."""
