"""The page that colours what is dropped on it: sessions know nothing of Gradio, layout nothing of the network."""
